//go:build nextversion

package node

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// runNext writes what the file "next" in the data directory says, of a kind that only this version knows, as soon as
// all gateways understand it, and logs what there is of it. Tests of mixed versions read the log.
func (n *Node) runNext(ctx context.Context) error {
	var known []string
	written, refused := "", ""
	for sleep(ctx, 100*time.Millisecond) == nil {
		if b, err := os.ReadFile(filepath.Join(n.cfg.Data, "next")); err == nil && string(b) != written {
			err := n.store.PutNext(ctx, "colour", string(b))
			switch {
			case err == nil:
				written, refused = string(b), ""
				n.log.Info("next is written", "value", written)
			case err.Error() != refused:
				refused = err.Error()
				n.log.Info("next is refused", "value", string(b), "why", refused)
			}
		}
		if all, err := n.store.Next(); err == nil && !slices.Equal(all, known) {
			known = all
			n.log.Info("next is known", "all", strings.Join(all, ", "))
		}
	}
	return nil
}
