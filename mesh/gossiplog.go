package mesh

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// gossipLog passes on what serf and memberlist log: warnings and errors, at
// our level Debug, because the next probe or exchange repairs what they are
// about. What an operator must see is louder, once a minute.
type gossipLog struct {
	log *slog.Logger

	mu   sync.Mutex // guards the field below
	loud time.Time  // of the last warning
}

// Write takes one line of package log.
func (g *gossipLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if strings.HasPrefix(text, "[DEBUG]") || strings.HasPrefix(text, "[INFO]") {
		return len(line), nil
	}
	for _, level := range []string{"[WARN] ", "[ERR] ", "[ERROR] "} {
		text = strings.TrimPrefix(text, level)
	}
	// A peer with another gossip key is there and will never be heard.
	if strings.Contains(text, "decrypt") && g.mayShout() {
		g.log.Warn("gossip that our key does not open", "said", text)
		return len(line), nil
	}
	g.log.Debug("serf", "said", text)
	return len(line), nil
}

func (g *gossipLog) mayShout() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.loud) > time.Minute {
		g.loud = now
		return true
	}
	return false
}
