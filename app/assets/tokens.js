// Small deeds of token texts and boxes: run on Enter, copy, fold, and a line in the histogram under the hovered token.
(() => {
  const workbench = ((window.dash_clientside ??= {}).workbench ??= {});
  workbench.run = (clicks, text) => text ?? "";

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || !event.target.matches(".prompt-text")) return;
    event.preventDefault();
    event.target.closest(".prompt").querySelector("[data-run]").click();
  });

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      await navigator.clipboard.writeText(copy.dataset.copy);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1200);
    }
    const paste = event.target.closest("[data-paste]");
    if (paste) {
      const box = document.getElementById(paste.dataset.into);
      dash_clientside.set_props(box.id, { value: paste.dataset.paste });
      box.scrollIntoView({ block: "center", behavior: "smooth" });
      setTimeout(() => box.closest(".prompt").querySelector("[data-run]").click(), 50);
    }
    const pick = event.target.closest(".pick .tok");
    if (pick) {
      const at = pick.classList.contains("here") ? null : Number(pick.dataset.at);
      dash_clientside.set_props("text-at", { data: at });
    }
    const fold = event.target.closest("[data-fold]");
    if (fold) {
      const open = document.getElementById(fold.dataset.fold).classList.toggle("unfolded");
      fold.setAttribute("aria-pressed", open);
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches(".pick .tok")) event.target.click();
  });

  function mark(value) {
    const graph = document.querySelector(".histogram .js-plotly-plot");
    if (!graph?.layout) return;
    const line = { type: "line", x0: value, x1: value, y0: 0, y1: 1, yref: "paper" };
    Plotly.relayout(graph, { shapes: value > 0 ? [line] : [] });
  }

  let marked = 0;
  document.addEventListener("mouseover", (event) => {
    const value = Number(event.target.closest?.(".tok[data-value]")?.dataset.value ?? 0);
    if (value === marked) return;
    marked = value;
    requestAnimationFrame(() => mark(marked));
  });
})();
