package cluster

import (
	"os"
	"path/filepath"
	"strings"
)

// removeEmptyLogs removes the logs of Badger that have no bytes. The caller has locked
// the directory. What it cannot do Badger will complain of.
//
// Badger empties a log before it removes it, and gives a new one its size after it
// made it. When a crash comes between, its next Open fails with "Create a new file"
// (dgraph-io/badger#2207). An empty log holds nothing that was acknowledged.
func removeEmptyLogs(dir string) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".mem") && !strings.HasSuffix(f.Name(), ".vlog") {
			continue
		}
		if info, err := f.Info(); err == nil && info.Size() == 0 {
			_ = os.Remove(filepath.Join(dir, f.Name()))
		}
	}
}
