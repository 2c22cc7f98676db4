"use strict";
(() => {
  // Every text of the data goes into the page as textContent: nothing of it is ever read as HTML.
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const place = document.getElementById("cell-texts");
  const source = document.getElementById("cells");
  const data = source ? JSON.parse(source.textContent) : null;

  const show = (key) => {
    const cell = data && Object.hasOwn(data.cells, key) ? data.cells[key] : null;
    if (!cell) return;
    for (const button of document.querySelectorAll(".matrix button")) {
      button.setAttribute("aria-pressed", String(button.dataset.cell === key));
    }
    const [truth, answer] = key.split("-");
    const title = make("h3");
    const texts = cell.n === 1 ? "1 text of " : cell.n.toLocaleString("en") + " texts of ";
    title.append(texts, make("bdi", "tag", data.labels[truth] || "(empty)"));
    if (truth === answer) title.append(", answered rightly");
    else title.append(", answered ", make("bdi", "tag", data.labels[answer] || "(empty)"));
    const order = truth === answer ? "The least sure first." : "The surest first.";
    const left = cell.n - cell.rows.length;
    const note = left > 0 ? " " + left.toLocaleString("en") + " more are not in this file." : "";
    const list = make("ol");
    list.tabIndex = 0;
    for (const [number, probability, text] of cell.rows) {
      const item = make("li");
      item.append(make("span", "quiet", data.part + " " + number + ", " + (100 * probability).toFixed(1) + "\u00a0%"));
      const shown = make("span", "", text || "(empty)");
      shown.dir = "auto";
      item.append(shown);
      list.append(item);
    }
    place.replaceChildren(title, make("p", "quiet", order + note), list);
    place.hidden = false;
  };

  const fromAddress = () => {
    const match = /^#cell-(\d+-\d+)$/.exec(location.hash);
    if (match) { show(match[1]); place?.scrollIntoView({ block: "nearest" }); }
  };

  document.addEventListener("click", (event) => {
    const cell = event.target.closest(".matrix button");
    if (cell) {
      show(cell.dataset.cell);
      try { history.replaceState(null, "", "#cell-" + cell.dataset.cell); } catch (error) { console.warn(error); }
    }
    const choice = event.target.closest(".switch button");
    if (choice) {
      for (const button of choice.parentElement.children) {
        button.setAttribute("aria-pressed", String(button === choice));
      }
      for (const chart of document.querySelectorAll("[data-scale]")) {
        chart.hidden = chart.dataset.scale !== choice.value;
      }
    }
    const head = event.target.closest("th[aria-sort] button");
    if (head) sort(head.closest("th"));
  });

  // Arrow keys move between the cells of the matrix, as in a grid.
  document.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const from = event.target.closest?.(".matrix td");
    const move = moves[event.key];
    if (!from || !move) return;
    const rows = [...from.closest("tbody").rows];
    let r = rows.indexOf(from.parentElement), c = from.cellIndex;
    for (;;) {
      r += move[0]; c += move[1];
      const next = rows[r]?.cells[c];
      if (!next) return;
      const button = next.querySelector("button");
      if (button) { button.focus(); event.preventDefault(); return; }
    }
  });

  const sort = (head) => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      const order = head.dataset.kind === "text" ? x.localeCompare(y) : x - y;
      return ascending ? order : -order;
    });
    body.replaceChildren(...rows);
  };

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const element of opened) element.open = true;
  });
  addEventListener("afterprint", () => { for (const element of opened) element.open = false; });
  addEventListener("hashchange", fromAddress);
  for (const element of document.querySelectorAll(".only-live")) element.hidden = false;
  fromAddress();
})();
