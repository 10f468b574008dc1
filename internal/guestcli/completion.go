package guestcli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/xenchan/xenchan/guest"
)

// completions are what shells are told, to ask us at each tab: `xenchan-guest
// __complete WORD…` prints what may stand for the last WORD, a line each, with what it
// is behind a tab.
var completions = map[string]string{
	"bash": `_xenchan_guest() {
	mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)
}
complete -o default -F _xenchan_guest xenchan-guest
`,
	"zsh": `#compdef xenchan-guest
_xenchan_guest() {
	local line
	local -a all
	for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		[[ -n $line ]] && all+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
	done
	(( $#all )) && _describe xenchan-guest all || _default
}
compdef _xenchan_guest xenchan-guest
`,
	"fish": `complete -c xenchan-guest -n 'not __fish_seen_subcommand_from run' -f
complete -c xenchan-guest -a '(xenchan-guest __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
`,
}

var shells = []string{"bash", "zsh", "fish"}

func (a *app) completionCommand() command {
	return command{
		use: "completion SHELL", short: "Print what has a shell complete commands and names", flags: a.newFlags(), least: 1, most: 1,
		long: "Completion prints a script for " + strings.Join(shells, ", ") + `, which then completes commands, flags and
the names of the channels that are there.`,
		example: `  xenchan-guest completion bash >/etc/bash_completion.d/xenchan-guest
  xenchan-guest completion zsh >/usr/share/zsh/site-functions/_xenchan-guest
  xenchan-guest completion fish >/etc/fish/completions/xenchan-guest.fish`,
		run: func(_ context.Context, args []string) error {
			script, ok := completions[args[0]]
			if !ok {
				return usagef("%q is none of the shells %s", args[0], strings.Join(shells, ", "))
			}
			_, err := fmt.Fprint(a.stdout, script)
			return err
		},
	}
}

// plain says that a shell takes a name as it is. Others are not offered.
func plain(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("_.:@%+,-", r)
	})
}

// complete prints what may stand for the last of the words.
func (a *app) complete(words []string) {
	if len(words) == 0 {
		return
	}
	last := words[len(words)-1]
	for _, c := range a.candidates(words[:len(words)-1], last) {
		if strings.HasPrefix(c[0], last) {
			fmt.Fprintf(a.stdout, "%s\t%s\n", c[0], c[1])
		}
	}
}

// candidates are words and what they are.
func (a *app) candidates(before []string, last string) (all [][2]string) {
	for _, c := range a.commands() {
		words := strings.Fields(c.name())
		if len(before) < len(words) {
			if slices.Equal(words[:len(before)], before) && !slices.ContainsFunc(all, func(w [2]string) bool { return w[0] == words[len(before)] }) {
				all = append(all, [2]string{words[len(before)], c.short})
			}
			continue
		}
		if !slices.Equal(words, before[:len(words)]) {
			continue
		}
		switch previous := before[len(before)-1]; {
		case previous == "-o" || previous == "--output":
			return [][2]string{{"table", ""}, {"json", ""}}
		case c.name() == "completion":
			for _, s := range shells {
				all = append(all, [2]string{s, ""})
			}
		case strings.HasPrefix(last, "-"):
			c.flags.VisitAll(func(f *pflag.Flag) {
				usage, _, _ := strings.Cut(f.Usage, "\n")
				all = append(all, [2]string{"--" + f.Name, strings.ReplaceAll(usage, "`", "")})
			})
		case c.least > 0 && len(before) == len(words) && strings.Contains(c.use, "NAME"):
			channels, _ := guest.List(a.dir)
			for _, ch := range channels {
				if plain(ch.Name) {
					all = append(all, [2]string{ch.Name, ch.TTY})
				}
			}
		}
	}
	return all
}
