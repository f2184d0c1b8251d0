"use strict";
for (const svg of document.querySelectorAll("svg[data-lines]")) {
  const told = JSON.parse(svg.dataset.lines);
  const make = (name, kind) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    made.setAttribute("class", kind);
    svg.append(made);
    return made;
  };
  const cross = make("line", "cross");
  const dots = told.lines.map((line) => make("circle", `dot s${line.slot}`));
  const words = document.createElement("p");
  words.className = "under";
  words.setAttribute("aria-live", "polite");
  svg.after(words);
  const hide = () => {
    cross.style.display = "none";
    dots.forEach((dot) => (dot.style.display = "none"));
    words.textContent = "";
  };
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const nearest = told.lines.map((line) => line.points.reduce((a, b) => (Math.abs(b[1] - at) < Math.abs(a[1] - at) ? b : a)));
    cross.setAttribute("x1", nearest[0][1]);
    cross.setAttribute("x2", nearest[0][1]);
    cross.setAttribute("y1", told.top);
    cross.setAttribute("y2", told.bottom);
    cross.style.display = "";
    nearest.forEach((point, i) => {
      dots[i].setAttribute("cx", point[1]);
      dots[i].setAttribute("cy", point[2]);
      dots[i].setAttribute("r", 4);
      dots[i].style.display = "";
    });
    const several = told.lines.length > 1;
    const values = told.lines.map((line, i) => (several ? `${line.label} ${nearest[i][3]}` : nearest[i][3]));
    words.textContent = `${told.along} ${nearest[0][0].toLocaleString("en")}: ${values.join(" · ")}`;
  };
  hide();
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
