// Pages opened from disk cannot be fetched, so the search shows their titles there, and titles with an excerpt elsewhere.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== 'file:';
