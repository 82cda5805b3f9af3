// A plot is drawn when it comes near the window, so that a long page opens at once.
const draw = (element) => {
  const figure = figures[element.dataset.figure];
  Plotly.newPlot(element, figure.data, figure.layout, config);
};
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "800px" });
for (const element of document.querySelectorAll(".plot")) {
  element.style.minHeight = `${figures[element.dataset.figure].layout.height}px`;
  near.observe(element);
}
window.addEventListener("beforeprint", () => {
  for (const element of document.querySelectorAll(".plot:empty")) draw(element);
});
