"""Parts of the scripts that compare searches with reranking."""
