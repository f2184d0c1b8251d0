"use strict";
// Shows the values of a line chart under the pointer.
for (const svg of document.querySelectorAll("svg[data-lines]")) {
  const chart = JSON.parse(svg.dataset.lines);
  const append = (name, cssClass) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    element.setAttribute("class", cssClass);
    svg.append(element);
    return element;
  };
  const cross = append("line", "cross");
  const dots = chart.lines.map((line) => append("circle", `dot s${line.color}`));
  const values = document.createElement("p");
  values.className = "pointer-values";
  values.setAttribute("aria-live", "polite");
  svg.after(values);
  const hide = () => {
    cross.style.display = "none";
    dots.forEach((dot) => (dot.style.display = "none"));
    values.textContent = "";
  };
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const nearest = chart.lines.map((line) => line.points.reduce((a, b) => (Math.abs(b[1] - x) < Math.abs(a[1] - x) ? b : a)));
    cross.setAttribute("x1", nearest[0][1]);
    cross.setAttribute("x2", nearest[0][1]);
    cross.setAttribute("y1", chart.top);
    cross.setAttribute("y2", chart.bottom);
    cross.style.display = "";
    nearest.forEach((point, i) => {
      dots[i].setAttribute("cx", point[1]);
      dots[i].setAttribute("cy", point[2]);
      dots[i].setAttribute("r", 4);
      dots[i].style.display = "";
    });
    const several = chart.lines.length > 1;
    const words = chart.lines.map((line, i) => (several ? `${line.label} ${nearest[i][3]}` : nearest[i][3]));
    values.textContent = `${chart.x_prefix} ${nearest[0][0].toLocaleString("en")}: ${words.join(" · ")}`;
  };
  hide();
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
