package node

// syncDir has nothing to do where directories cannot be opened for syncing.
func syncDir(string) error { return nil }
