package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/toolstack"
)

// completion must not keep a person waiting at the prompt.
const completeWithin = time.Second

// completeDomain completes a first argument DOMAIN.
func (a *app) completeDomain(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd.Context(), func(ctx context.Context, tools *toolstack.Toolstack) (names []string) {
		domains, _ := tools.Domains(ctx)
		for _, d := range domains {
			if d.ID != 0 {
				names = append(names, candidate(d.Name))
			}
		}
		return names
	})
}

// candidate is a name that a shell can be given, else empty: completion speaks in
// lines, and takes what follows a tab for a description.
func candidate(name string) string {
	if printable(name) != name {
		return ""
	}
	return name
}

// completeChannel completes DOMAIN and then NAME.
func (a *app) completeChannel(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.completeDomain(cmd, args, word)
	case 1:
		return a.complete(cmd.Context(), func(ctx context.Context, tools *toolstack.Toolstack) (names []string) {
			d, err := tools.Resolve(ctx, args[0])
			if err != nil {
				return nil
			}
			channels, _ := tools.Channels(ctx, d)
			for _, c := range channels {
				names = append(names, candidate(c.Name))
			}
			return names
		})
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) complete(ctx context.Context, find func(context.Context, *toolstack.Toolstack) []string) ([]string, cobra.ShellCompDirective) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	tools, err := a.toolstack(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer tools.Store.Close()
	found := slices.DeleteFunc(find(ctx, tools), func(s string) bool { return s == "" })
	slices.Sort(found)
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completePath leaves an argument to the shell: a directory first, then files.
func completePath(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return nil, cobra.ShellCompDirectiveDefault
}

// completeFile leaves the first argument to the shell.
func completeFile(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
