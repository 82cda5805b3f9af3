// Plots near the window are drawn first; the others follow one by one, so that a long page opens at once.
const waiting = new Set(document.querySelectorAll(".plot"));
const draw = (element) => {
  if (!waiting.delete(element)) return;
  const figure = figures[element.dataset.figure];
  Plotly.newPlot(element, figure.data, figure.layout, config);
};
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "600px" });
for (const element of waiting) {
  element.style.minHeight = `${figures[element.dataset.figure].layout.height}px`;
  near.observe(element);
}
const drawNext = () => {
  const [element] = waiting;
  if (!element) return;
  draw(element);
  setTimeout(drawNext, 30);
};
window.addEventListener("load", () => setTimeout(drawNext, 300));
window.addEventListener("beforeprint", () => waiting.forEach(draw));
