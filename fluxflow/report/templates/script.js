// A figure is drawn when it comes near the window: a page may have a hundred.
const touch = matchMedia("(pointer: coarse)").matches;
const config = {responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]};
function draw(box) {
  near.unobserve(box);
  const figure = JSON.parse(box.querySelector("script").textContent);
  if (touch) figure.layout.dragmode = false;  // a finger scrolls the page
  Plotly.newPlot(box.querySelector(".canvas"), figure.data, figure.layout, config);
}
const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  {rootMargin: "600px"},
);
document.querySelectorAll(".plot").forEach((box) => near.observe(box));
addEventListener("beforeprint", () => document.querySelectorAll(".plot:not(:has(.plotly))").forEach(draw));

for (const slides of document.querySelectorAll(".slides")) {
  const images = slides.querySelectorAll("img");
  slides.querySelector("input")?.addEventListener("input", (event) => {
    images.forEach((image, index) => { image.hidden = index !== event.target.valueAsNumber; });
    slides.querySelector("output").textContent = images[event.target.valueAsNumber].alt;
  });
}
for (const image of document.querySelectorAll(".screen img"))
  image.addEventListener("click", () => image.classList.toggle("full"));
