// What every figure can do: caption its panel, change its theme, leave as a picture.
(() => {
  const workbench = ((window.dash_clientside ??= {}).workbench ??= {});
  let templates = null;

  workbench.caption = (figure) => {
    const { title = "", reading = "", min_width = 0 } = figure?.layout?.meta ?? {};
    return [title, reading, reading, { minWidth: `${min_width}px` }];
  };

  // The figure in the theme of the moment, where it was drawn in another one.
  workbench.themed = (figure) =>
    templates ? { ...figure, layout: { ...figure.layout, template: templates[workbenchTheme.current()] } } : figure;

  document.addEventListener("workbench:theme", async ({ detail }) => {
    if (!document.querySelector(".js-plotly-plot")) return;
    templates ??= await (await fetch("/themes.json")).json();
    for (const graph of document.querySelectorAll(".js-plotly-plot")) {
      if (graph.layout) Plotly.relayout(graph, { template: templates[detail] });
    }
  });

  function picture(graph, format) {
    const { meta = {}, margin = {} } = graph.layout;
    const { width, height } = graph._fullLayout;
    const plain = (text) => text.replace(/\s+/g, " ").replaceAll("&", "&amp;").replaceAll("<", "&lt;").slice(0, 110);
    const source = Object.values(meta.source ?? {}).map(plain).join(" · ");
    const title = { text: `${plain(meta.title ?? "")}<br><sub>${source}</sub>`, x: 0, xref: "container", xanchor: "left", pad: { l: 12, t: 12 }, yanchor: "top", y: 1 };
    const layout = { ...graph.layout, title, margin: { ...margin, t: 56 + (margin.t ?? 8) }, width, height: height + 56 };
    const filename = (meta.title ?? "figure").toLowerCase().replace(/[^a-z0-9]+/g, "-");
    Plotly.downloadImage({ data: graph.data, layout }, { format, filename, width, height: height + 56, scale: 2 });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-export]");
    if (button) picture(button.closest(".panel").querySelector(".js-plotly-plot"), button.dataset.export);
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target) || event.target.closest("button")) menu.open = false;
    }
  });
})();
