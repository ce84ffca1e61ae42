// One problem at a time, by buttons or keys. Without this script, all problems are shown one below the other.
(() => {
  const articles = [...document.querySelectorAll("article")];
  const controls = document.querySelector(".controls");
  if (!controls) return;
  const filters = [...controls.querySelectorAll("[data-tag]")];
  const place = controls.querySelector("output");
  let shown = articles;
  let at = 0;

  const show = () => {
    at = Math.max(0, Math.min(at, shown.length - 1));
    articles.forEach((article) => { article.hidden = article !== shown[at]; });
    place.textContent = `${at + 1} of ${shown.length}`;
  };
  const move = (by) => { at += by; show(); };
  const filter = (button) => {
    const tag = button.dataset.tag;
    shown = articles.filter((article) => !tag || JSON.parse(article.dataset.tags).includes(tag));
    filters.forEach((one) => one.setAttribute("aria-pressed", one === button));
    at = 0;
    show();
  };

  filters.forEach((button) => button.addEventListener("click", () => filter(button)));
  controls.querySelectorAll("[data-go]").forEach((button) => {
    button.addEventListener("click", () => move(Number(button.dataset.go)));
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowRight") move(1);
    else if (event.key === "ArrowLeft") move(-1);
    else if (event.key >= "0" && event.key <= "9" && filters[event.key]) filter(filters[event.key]);
    else return;
    event.preventDefault();
  });
  controls.hidden = false;
  filter(filters[0]);
})();
