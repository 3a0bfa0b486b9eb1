"""One door for matrices of other people's code: mended, recognised, solved, judged in the caller's terms."""
