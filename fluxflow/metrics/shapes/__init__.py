"""Whether pictures of coloured shapes show what their prompts say: objects found in pixels, scores by category."""

from typing import TYPE_CHECKING

from fluxflow.lazy import exports

if TYPE_CHECKING:
    from fluxflow.metrics.shapes.detection import Detection, detect
    from fluxflow.metrics.shapes.scoring import CATEGORIES, CategoryScore, EvaluationScene, evaluation_scenes, score

__all__ = ["CATEGORIES", "CategoryScore", "Detection", "EvaluationScene", "detect", "evaluation_scenes", "score"]
__getattr__ = exports(
    __name__,
    {
        "CATEGORIES": "metrics.shapes.scoring",
        "CategoryScore": "metrics.shapes.scoring",
        "Detection": "metrics.shapes.detection",
        "EvaluationScene": "metrics.shapes.scoring",
        "detect": "metrics.shapes.detection",
        "evaluation_scenes": "metrics.shapes.scoring",
        "score": "metrics.shapes.scoring",
    },
)
