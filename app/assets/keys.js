// Keys that work anywhere outside a text box, and the list of them.
(() => {
  const workbench = ((window.dash_clientside ??= {}).workbench ??= {});
  let afterG = false;

  function help() {
    const dialog = document.getElementById("keys");
    dialog.open ? dialog.close() : dialog.showModal();
  }

  const follow = (selector) => {
    const link = document.querySelector(selector);
    if (link) workbench.go(link.getAttribute("href"));
  };

  const does = {
    "?": help,
    t: () => workbenchTheme.toggle(),
    n: () => follow("[data-step='next']"),
    p: () => follow("[data-step='previous']"),
    r: () => follow("[data-step='random']"),
    "/": () => document.querySelector("#page textarea, #page input[type='search'], #page input[type='text']")?.focus(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details[open]")) menu.open = false;
      if (event.target.matches("input, textarea")) event.target.blur();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select, [role='combobox']")) return;
    const action = afterG ? () => follow(`nav [data-key="${CSS.escape(event.key)}"]`) : does[event.key];
    afterG = event.key === "g" && !afterG;
    if (action) {
      event.preventDefault();
      action();
    }
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) ({ help, theme: () => workbenchTheme.toggle() })[button.dataset.do]();
  });
})();
