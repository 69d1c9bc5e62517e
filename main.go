// Gatemesh is a peer-to-peer mesh of WireGuard gateways.
package main

import (
	"os"

	"gatemesh/node/cli"
)

func main() { os.Exit(cli.Main(os.Args, os.Stdout, os.Stderr)) }
