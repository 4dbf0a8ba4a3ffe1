"""Where stages are computed: in this process, or in fresh processes beside each other."""
