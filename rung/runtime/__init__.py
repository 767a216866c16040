"""Runtime: native stage runtime, object cache, loader, arena and executables."""
