"""One run of one judge: what is asked, what is kept, what comes of it."""
