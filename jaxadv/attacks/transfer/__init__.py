"""Transfer attacks: made on a surrogate network to fool another one."""
