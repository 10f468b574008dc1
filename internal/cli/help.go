package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const exitHelp = `Exit status:
  0 done, 1 failed, 2 wrong usage or configuration, 3 no such domain or channel,
  4 timed out`

// help prints what --help shows. It is not one of cobra's templates, since
// these would pull the whole of text/template into the binary.
func help(cmd *cobra.Command, _ []string) {
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "%s\n\nUsage:\n", cmd.Long)
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s COMMAND [flags]\n", cmd.CommandPath())
	} else {
		fmt.Fprintf(w, "  %s\n", cmd.UseLine())
	}
	fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	for _, g := range cmd.Groups() {
		fmt.Fprintf(w, "\n%s:\n", g.Title)
		for _, c := range cmd.Commands() {
			if c.GroupID == g.ID && c.IsAvailableCommand() {
				fmt.Fprintf(w, "  %-10s  %s\n", c.Name(), c.Short)
			}
		}
	}
	if len(cmd.Groups()) == 0 && cmd.HasAvailableSubCommands() {
		fmt.Fprint(w, "\nCommands:\n")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				fmt.Fprintf(w, "  %-13s %s\n", c.Name(), c.Short)
			}
		}
	}
	if !cmd.HasParent() {
		fmt.Fprintf(w, "\nFlags:\n%s\n%s\n\n`xenchan COMMAND --help` says more about a command.\n", cmd.LocalFlags().FlagUsages(), exitHelp)
		return
	}
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(w, "\nFlags:\n%s", cmd.LocalFlags().FlagUsages())
	}
	fmt.Fprintf(w, "\nFlags of all commands:\n%s", cmd.InheritedFlags().FlagUsages())
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show what a command does",
		Long:    "Help shows what a command does, as COMMAND --help does.",
		Example: "  xenchan help attach",
		Args:    args(0, 1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return commandNames(cmd.Root()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			if len(args) == 0 {
				return root.Help()
			}
			for _, c := range root.Commands() {
				if c.Name() == args[0] {
					return c.Help()
				}
			}
			return usagef("unknown command %q%s; `xenchan --help` lists them", args[0], didYouMean(args[0], commandNames(root)))
		},
	}
}

var shells = []string{"bash", "fish", "zsh"}

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes commands, domains and channels",
		Long: `Completion prints a script for SHELL, which is ` + strings.Join(shells, ", ") + `, that completes commands,
flags, and the names of domains and channels.`,
		Example: `  source <(xenchan completion bash)
  xenchan completion bash >/etc/bash_completion.d/xenchan
  xenchan completion fish >~/.config/fish/completions/xenchan.fish
  xenchan completion zsh >/usr/local/share/zsh/site-functions/_xenchan`,
		Args:              args(1, 1),
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.stdout, true)
			case "fish":
				return cmd.Root().GenFishCompletion(a.stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.stdout)
			}
			return usagef("unknown shell %q%s; give one of %s", args[0], didYouMean(args[0], shells), strings.Join(shells, ", "))
		},
	}
}
