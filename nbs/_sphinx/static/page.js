// Pages opened from disk cannot be fetched, so the search shows their titles there, and titles with an excerpt elsewhere.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== 'file:';
// What scrolls can be reached and scrolled from the keyboard.
const reach = () => document.querySelectorAll('pre, .table-wrapper, .text_html, .output, .cell_output, .math, dt.sig').forEach(o => {
  if (o.scrollWidth > o.clientWidth || o.scrollHeight > o.clientHeight + 1) o.tabIndex = 0;
});
addEventListener('load', reach);
addEventListener('resize', reach);
