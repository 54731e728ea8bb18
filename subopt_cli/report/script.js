"use strict";
// Draws each chart when it comes near the screen, sorts and filters the tables. Nothing is loaded from anywhere.
(() => {
  const figures = JSON.parse(document.getElementById("charts").textContent);
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const config = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d"],
    displayModeBar: isTouch ? false : "hover",
  };

  // Charts

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A copy in which the names of colours ("--blue") have become colours of the scheme in force.
  const coloured = (value) => {
    if (typeof value === "string") return value.startsWith("--") ? css(value) : value;
    if (Array.isArray(value)) {
      return typeof value[0] === "number" ? value : value.map(coloured);
    }
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item)]));
  };

  const axis = (own) => ({
    gridcolor: css("--grid"),
    linecolor: css("--line"),
    zerolinecolor: css("--line"),
    automargin: true,
    fixedrange: isTouch,
    ...own,
    title: { font: { size: 13 }, standoff: 10, ...own.title },
  });

  const layoutOf = (layout) => {
    const own = coloured(layout);
    const axes = Object.keys(own).filter((key) => /^[xy]axis\d*$/.test(key));
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--text"), size: 12, color: css("--ink") },
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
      margin: { l: 56, r: 16, t: 12, b: 48 },
      hovermode: "closest",
      dragmode: isTouch ? false : "zoom",
      ...own,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", ...own.legend },
      ...Object.fromEntries(axes.map((key) => [key, axis(own[key])])),
    };
  };

  const tracesOf = (figure, view) => {
    const changes = view > 0 ? figure.views[view - 1] : [];
    return figure.data.map((trace, index) => coloured({ ...trace, ...changes[index] }));
  };

  // On a phone the legend takes a line for each entry, and the layers' names below an axis would take all the rest.
  const narrowed = (layout, traces) => {
    const entries = layout.showlegend === false ? 0 : traces.length;
    layout.height += 19 * Math.max(0, entries - 2);
    if (layout.xaxis.labelalias) {
      layout.xaxis = { ...layout.xaxis, labelalias: {}, tickangle: 0 };
      layout.xaxis.title = { ...layout.xaxis.title, text: "layer (touch a mark for its name)" };
    }
    return layout;
  };

  // Plotly lies in the page as text: to run it takes a second or so, in which the page could not answer.
  const loadPlotly = () => {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  };

  const draw = (box) => {
    loadPlotly();
    const figure = figures[box.id];
    const picker = document.querySelector(`select[data-chart="${box.id}"]`);
    const traces = tracesOf(figure, picker ? Number(picker.value) : 0);
    const layout = layoutOf(figure.layout);
    if (innerWidth < 560) narrowed(layout, traces);
    box.style.height = `${layout.height}px`;
    Plotly.react(box, traces, layout, config);
    box.dataset.drawn = "yes";
  };
  const drawn = () => document.querySelectorAll(".chart[data-drawn]");

  // One chart at a time, when there is nothing else to do.
  const waiting = [];
  const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 30));
  const drawNext = () => {
    draw(waiting.shift());
    if (waiting.length) whenIdle(drawNext, { timeout: 300 });
  };
  const watcher = new IntersectionObserver(
    (entries) => {
      const wasEmpty = !waiting.length;
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        watcher.unobserve(target);
        waiting.push(target);
      }
      if (wasEmpty && waiting.length) whenIdle(drawNext, { timeout: 300 });
    },
    { rootMargin: "-60px 0px" },
  );
  for (const box of document.querySelectorAll(".chart")) watcher.observe(box);
  // A reader who stays at the top for a while finds plotly ready, one who clicks at once does not wait for it.
  setTimeout(() => whenIdle(loadPlotly), 1500);
  for (const picker of document.querySelectorAll("select[data-chart]")) {
    picker.addEventListener("change", () => draw(document.getElementById(picker.dataset.chart)));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn().forEach(draw));
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
    document.querySelectorAll(".chart:not([data-drawn])").forEach(draw);
  });

  // Tables

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };

  // Numbers by size, texts by the alphabet; a dash, which stands for "not known", comes last either way.
  const compare = (a, b, sign) => {
    const unknown = (a === "-") - (b === "-");
    if (unknown) return unknown;
    return sign * (typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true }));
  };

  const sort = (head) => {
    const table = head.closest("table");
    const wasAscending = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [valueOf(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) => compare(a, b, wasAscending ? -1 : 1));
    body.append(...keyed.map(([, row]) => row));
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", wasAscending ? "descending" : "ascending");
  };
  for (const button of document.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }

  // A box that is wider than its window says so, and fades out where it goes on.
  const showMore = (box) => {
    const isMore = box.scrollLeft + box.clientWidth < box.scrollWidth - 1;
    box.classList.toggle("more", isMore);
    if (box.scrollWidth > box.clientWidth + 1) box.previousElementSibling.hidden = false;
  };
  const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => showMore(target)));
  for (const box of document.querySelectorAll(".table .scroll")) {
    resized.observe(box);
    box.addEventListener("scroll", () => showMore(box), { passive: true });
  }

  const filter = (field) => {
    const words = field.value.toLowerCase().split(/\s+/);
    const { rows } = document.getElementById(field.dataset.table).tBodies[0];
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    const count = field.value ? `${shown} of ${rows.length} rows` : "";
    field.closest(".table").querySelector("output").textContent = count;
  };
  for (const field of document.querySelectorAll("input[data-table]")) {
    field.addEventListener("input", () => filter(field));
  }
})();
