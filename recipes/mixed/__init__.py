"""One recipe of several methods: each layer the one that promises most within the memory."""
