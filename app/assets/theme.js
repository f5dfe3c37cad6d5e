// Light or dark: the reader's choice if there is one, the system's otherwise. Runs in the head, before anything is drawn.
// The choice lives in localStorage; a cookie tells the server in which template to draw its figures.
(() => {
  const KEY = "workbench-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem(KEY);
  const current = () => chosen() ?? (system.matches ? "dark" : "light");

  function apply() {
    document.documentElement.dataset.theme = current();
    document.cookie = `${KEY}=${current()}; path=/; SameSite=Strict; max-age=31536000`;
    document.dispatchEvent(new CustomEvent("workbench:theme", { detail: current() }));
  }

  window.workbenchTheme = {
    current,
    toggle() {
      localStorage.setItem(KEY, current() === "dark" ? "light" : "dark");
      apply();
    },
  };
  system.addEventListener("change", apply);
  apply();
})();
