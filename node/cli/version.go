package cli

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

// Version is the program's version, as go build recorded it.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version, and what it is compatible with",
		Flags: []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			protocol, format := node.Compatibility()
			if c.Bool("json") {
				return printJSON(c.App.Writer, map[string]any{"version": Version(), "protocol": protocol, "format": format})
			}
			_, err := fmt.Fprintf(c.App.Writer, "gatemesh %s (protocol %s, data format %d)\n", Version(), protocol, format)
			return err
		},
	}
}

// versionText is a gateway's version, and who keeps the cluster from using all of it.
func versionText(st api.Status) string {
	text := fmt.Sprintf("%s (protocol %s, data format %d)", st.Version, st.Protocol, st.Format)
	if len(st.Older) > 0 {
		text += "; older: " + strings.Join(st.Older, ", ")
	}
	return text
}
