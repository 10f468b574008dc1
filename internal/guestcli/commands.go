package guestcli

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/xenchan/xenchan/guest"
)

func (a *app) listCommand() command {
	outputs := []string{"table", "json"}
	flags := a.newFlags()
	output := flags.StringP("output", "o", outputs[0], "`FORM` of the result: table or json")
	return command{
		use: "list [flags]", short: "List this guest's channels", flags: flags,
		long: `List shows the channels of this guest and the terminal of each. The terminal's number
changes when channels come and go: use the name.`,
		example: "  xenchan-guest list\n  xenchan-guest list -o json",
		run: func(context.Context, []string) error {
			if !slices.Contains(outputs, *output) {
				return usagef("-o %s: the forms are %s", *output, strings.Join(outputs, ", "))
			}
			all, err := guest.List(a.dir)
			if err != nil {
				return err
			}
			if *output == "json" {
				return json.NewEncoder(a.stdout).Encode(append([]guest.Channel{}, all...))
			}
			return a.table(all)
		},
	}
}

func (a *app) table(all []guest.Channel) error {
	width := len("NAME")
	for _, c := range all {
		width = max(width, len(c.Name))
	}
	_, err := fmt.Fprintf(a.stdout, "%-*s  TTY\n", width, "NAME")
	for _, c := range all {
		_, err = fmt.Fprintf(a.stdout, "%-*s  %s\n", width, c.Name, c.TTY)
	}
	return err
}

func (a *app) waitCommand() command {
	flags := a.newFlags()
	limit := timeoutFlag(flags)
	return command{
		use: "wait NAME [flags]", short: "Wait until a channel is there", flags: flags, least: 1, most: 1,
		long:    "Wait returns when the channel is there, and prints its path.",
		example: "  xenchan-guest wait org.example.agent.0 --timeout 30s",
		run: func(ctx context.Context, args []string) error {
			path, err := a.wait(ctx, args[0], *limit)
			if err == nil {
				_, err = fmt.Fprintln(a.stdout, path)
			}
			return err
		},
	}
}

func timeoutFlag(flags *pflag.FlagSet) *time.Duration {
	return flags.Duration("timeout", 0, "`TIME` to wait for the channel, such as 30s; 0 is for ever")
}

func (a *app) versionCommand() command {
	return command{
		use: "version", short: "Print the version", flags: a.newFlags(),
		long:    "Version prints the version of xenchan-guest.",
		example: "  xenchan-guest version",
		run: func(context.Context, []string) error {
			version := "(devel)"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
				version = info.Main.Version
			}
			_, err := fmt.Fprintf(a.stdout, "xenchan-guest %s\n", version)
			return err
		},
	}
}
