"""Pictures of coloured shapes with exact captions, made on the fly: the truth, the words, the pixels, the reader."""
