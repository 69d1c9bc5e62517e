package mesh

import (
	"log/slog"
	"sync"
	"time"
)

// StrangerLog writes what anybody may give cause for: one line of a message in a minute, with how many there were since
// the one before. What it holds back is written at level Debug.
type StrangerLog struct {
	log *slog.Logger

	mu    sync.Mutex // guards lines
	lines map[string]heldLine
}

// heldLine is a message that was written.
type heldLine struct {
	at   time.Time
	held int // since then
}

const strangerPause = time.Minute

// NewStrangerLog returns one that writes to log.
func NewStrangerLog(log *slog.Logger) *StrangerLog {
	return &StrangerLog{log: log, lines: map[string]heldLine{}}
}

// Warn writes a line. The message is a constant.
func (l *StrangerLog) Warn(msg string, args ...any) {
	l.mu.Lock()
	line, now := l.lines[msg], time.Now()
	due := now.Sub(line.at) >= strangerPause
	if due {
		l.lines[msg] = heldLine{at: now}
	} else {
		l.lines[msg] = heldLine{line.at, line.held + 1}
	}
	l.mu.Unlock()
	switch {
	case !due:
		l.log.Debug(msg, args...)
	case line.held > 0:
		l.log.Warn(msg, append(args, "not_shown", line.held)...)
	default:
		l.log.Warn(msg, args...)
	}
}
