"""Files that come with skdebias; `README.md` says what they are."""
