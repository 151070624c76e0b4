// Choosing many jobs: how many are said, and all of a page are chosen at once.

const boxes = () => [...document.querySelectorAll('.jobs tbody .choose input')];

function count() {
  const all = document.querySelector("#choose-all");
  if (!all) return;
  all.parentElement.hidden = false;
  const rows = boxes();
  const chosen = rows.filter((box) => box.checked).length;
  all.checked = chosen > 0 && chosen === rows.length;
  all.indeterminate = chosen > 0 && chosen < rows.length;
  document.querySelector("#num-chosen").textContent = `${chosen} chosen`;
}

document.addEventListener("change", (event) => {
  if (event.target.id === "choose-all")
    for (const box of boxes()) box.checked = event.target.checked;
  count();
});
document.addEventListener("htmx:after:swap", count);
addEventListener("pageshow", count);
