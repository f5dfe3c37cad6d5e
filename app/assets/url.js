// The address bar and the page. Links are followed without a reload; what a page reports as its state is written to the
// address; back and forward lay the page out anew from the address.
(() => {
  const workbench = ((window.dash_clientside ??= {}).workbench ??= {});
  const here = () => location.pathname + location.search;
  let fresh = true;

  function arrive() {
    fresh = true;
    dash_clientside.set_props("address", { data: here() });
    dash_clientside.set_props("alert", { children: null });
  }

  workbench.go = (href) => {
    if (href !== here()) history.pushState(null, "", href);
    arrive();
    scrollTo(0, 0);
    document.getElementById("page")?.focus({ preventScroll: true });
  };

  workbench.locate = () => here();

  // The first report after arriving only tidies the address; later ones are steps to go back to.
  workbench.remember = (hrefs) => {
    const href = hrefs.find(Boolean);
    if (!href || new URL(href, location).pathname !== location.pathname) return;
    if (href !== here()) history[fresh ? "replaceState" : "pushState"](null, "", href);
    fresh = false;
  };

  workbench.entitle = (title) => {
    if (title) document.title = title;
  };

  workbench.ready = (finished, ready) => (finished && !ready ? true : dash_clientside.no_update);

  workbench.tell = (finished, pages) => pages.map(() => finished);

  addEventListener("popstate", arrive);

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='/']");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    workbench.go(link.getAttribute("href"));
  });
})();
