// What stands under the pointer, in words: the cell of a heat map, or the nearest point of a curve.
const note = document.body.appendChild(document.createElement("div"));
note.className = "note";
note.hidden = true;
const wordsAt = ({ grids, points }, x, y, height) => {
  for (const { box: [left, top, right, bottom], columns, rows, values } of grids) {
    const column = Math.floor(((x - left) / (right - left)) * columns.length);
    const row = Math.floor(((y - top) / (bottom - top)) * rows.length);
    const value = values[row]?.split(" ")[column];
    if (value !== undefined) return `${rows[row]}\nstep ${columns[column]}: ${value}`;
  }
  let nearest = 0.03;
  let words = "";
  for (const [left, top, text] of points) {
    const distance = Math.hypot(left - x, (top - y) * height);
    if (distance < nearest) [nearest, words] = [distance, text];
  }
  return words;
};
for (const plot of document.querySelectorAll(".plot")) {
  plot.addEventListener("pointermove", (event) => {
    const { left, top, width, height } = plot.getBoundingClientRect();
    const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
    note.textContent = wordsAt(hovers[plot.dataset.figure], x, y, height / width);
    note.hidden = !note.textContent;
    note.style.left = `${Math.min(event.clientX + 14, innerWidth - note.offsetWidth - 4)}px`;
    note.style.top = `${event.clientY + 16}px`;
  });
  plot.addEventListener("pointerleave", () => { note.hidden = true; });
}
