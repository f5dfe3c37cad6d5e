// The attention page: pick a head by click or arrow key; hover a token to see its links, click to keep them.
(() => {
  const workbench = ((window.dash_clientside ??= {}).workbench ??= {});
  const none = () => dash_clientside.no_update;
  let size = [0, 0];
  let chosen = [0, 0];
  let locked = null;

  workbench.pickHead = () => {
    const trigger = dash_clientside.callback_context.triggered[0];
    const point = trigger?.value?.points?.[0];
    return point ? [Math.floor(point.y), Math.floor(point.x)] : none();
  };

  // The grid with a frame around the chosen head. Tiles are one unit apart; `meta.side` is the width of one.
  workbench.outlineHead = (figure, head) => {
    if (!figure?.layout?.meta?.grid) return figure ?? none();
    const { grid, side } = figure.layout.meta;
    size = grid;
    chosen = head ?? [0, 0];
    const edge = (1 - side) / 4;
    const [layer, column] = chosen;
    const frame = { type: "rect", x0: column - edge, x1: column + side + edge, y0: layer - edge, y1: layer + side + edge };
    return workbench.themed({ ...figure, layout: { ...figure.layout, shapes: head ? [frame] : [] } });
  };

  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || !event.target.closest?.(".panel.heads")) return;
    event.preventDefault();
    const next = chosen.map((at, axis) => Math.min(Math.max(at + step[axis], 0), size[axis] - 1));
    dash_clientside.set_props("attention-head", { data: next });
  });

  function tint(panel, at) {
    const pattern = (panel.weights ??= JSON.parse(panel.dataset.pattern));
    const paint = (row, weight) => {
      for (const token of row.querySelectorAll(".tok")) {
        const position = Number(token.dataset.at);
        const value = at === null ? 0 : weight(position) / 1000;
        token.style.setProperty("--tint", Math.sqrt(value).toFixed(3));
        token.classList.toggle("here", position === at);
        if (at === null) delete token.dataset.tip;
        else token.dataset.tip = value.toFixed(3);
      }
    };
    paint(panel.querySelector(".forward"), (position) => pattern[at][position]);
    paint(panel.querySelector(".backward"), (position) => pattern[position][at]);
    panel.classList.toggle("locked", locked !== null);
  }

  // A cell of the enlarged head shows its row's token in the texts.
  workbench.hoverHead = (hover) => {
    const panel = document.querySelector(".looks");
    if (panel && hover && locked === null) tint(panel, hover.points[0].pointNumber[0]);
  };

  function over(event, lock) {
    const panel = event.target.closest?.(".looks");
    if (!panel) return;
    const token = event.target.closest(".tok");
    const at = token ? Number(token.dataset.at) : null;
    if (lock) locked = at === locked ? null : at;
    tint(panel, locked ?? at);
  }

  const release = () => {
    locked = null;
    for (const panel of document.querySelectorAll(".looks")) tint(panel, null);
  };

  document.addEventListener("mouseover", (event) => over(event, false));
  document.addEventListener("focusin", (event) => over(event, false));
  document.addEventListener("click", (event) => over(event, true));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") release();
    if (event.key === "Enter" && event.target.matches(".looks .tok")) over(event, true);
  });
})();
