// One tooltip for everything that has data-tip: on hover, on focus, and on a tap.
(() => {
  const tip = () => document.getElementById("tip");
  let owner = null;

  function show(element) {
    const box = tip();
    if (!box || !element.dataset.tip) return;
    owner = element;
    box.textContent = element.dataset.tip;
    box.hidden = false;
    const at = element.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - box.offsetWidth / 2), innerWidth - box.offsetWidth - 8);
    const above = at.top - box.offsetHeight - 8;
    box.style.left = `${left}px`;
    box.style.top = `${above > 8 ? above : at.bottom + 8}px`;
  }

  function hide() {
    owner = null;
    if (tip()) tip().hidden = true;
  }

  const at = (event) => event.target.closest?.("[data-tip]");
  for (const kind of ["mouseover", "focusin"]) {
    document.addEventListener(kind, (event) => (at(event) ? show(at(event)) : kind === "mouseover" && owner && hide()));
  }
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", hide, { passive: true, capture: true });
})();
