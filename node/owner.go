package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ownerFile names the process that has the store open, for the message to the
// next one that tries. The store's own lock decides; this only explains.
const ownerFile = "running"

func writeOwner(dir, name string) error {
	if name == "" {
		name = hostname()
	}
	return os.WriteFile(filepath.Join(dir, ownerFile), fmt.Appendf(nil, "gateway %s, process %d\n", name, os.Getpid()), 0o600)
}

// readOwner returns what writeOwner wrote, in one bounded line.
func readOwner(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, ownerFile))
	line, _, _ := strings.Cut(string(b), "\n")
	if err != nil || line == "" || len(line) > 200 {
		return "another process"
	}
	return line
}
