(async () => {
  const started = async (parts) => {
    for (const part of parts) {
      // One broken part leaves the rest.
      try {
        await part.start?.();
      } catch (error) {
        console.error(error);
      }
    }
  };

  await started([Issues, Nav, Export]);
  try {
    await Data.ready;
    await started([Thresholds, Selection, Cards, Histogram, Orders, ScatterMap, Groups, Keyboard]);
  } catch (error) {
    console.error(error);
    document.querySelector("main").prepend(Dom.make("p", { class: "note", role: "alert",
      text: `This browser could not unpack the page’s data, so cards, thresholds and map are missing: ${error.message}` }));
  }
  document.documentElement.dataset.ready = "";
})();
