package xl

import (
	"fmt"
	"strings"
)

// Args are arguments for xl create beside the configuration's file.
type Args struct {
	// Options are passed on as they are.
	Options []string
	// Assignments are lines that xl appends to the configuration.
	Assignments []string
	// Paused and Console are -p and -c, which are not passed on: the channels
	// have to be there first.
	Paused, Console bool
}

// refused are options of xl create with which there is no domain to give
// channels to when it returns.
var refused = map[string]string{
	"n": "xl makes no domain with it; `xenchan check FILE` shows the channels, `xl create -n FILE` all else",
	"F": "xl would not return before the domain's end; leave it away",
	"f": "name the configuration before the --",
	"h": "see `xl create -h`",
}

var long = map[string]string{"dryrun": "n", "defconfig": "f", "help": "h"}

// ParseArgs sorts the arguments as xl create would.
func ParseArgs(args []string) (a Args, err error) {
	for _, arg := range args {
		switch {
		case strings.HasPrefix(arg, "--"):
			name, _, _ := strings.Cut(arg[2:], "=")
			if why, ok := refused[long[name]]; ok {
				return Args{}, fmt.Errorf("xl create --%s: %s", name, why)
			}
			a.Options = append(a.Options, arg)
		case len(arg) > 1 && arg[0] == '-':
			if err := a.letters(arg[1:]); err != nil {
				return Args{}, err
			}
		case strings.Contains(arg, "="):
			a.Assignments = append(a.Assignments, arg)
		default:
			return Args{}, fmt.Errorf("%q is neither an option of xl create nor KEY=VALUE", arg)
		}
	}
	return a, nil
}

// letters reads a group of options of one letter each.
func (a *Args) letters(group string) error {
	rest := ""
	for _, l := range group {
		switch why, ok := refused[string(l)]; {
		case ok:
			return fmt.Errorf("xl create -%c: %s", l, why)
		case l == 'p':
			a.Paused = true
		case l == 'c':
			a.Console = true
		default:
			rest += string(l)
		}
	}
	if rest != "" {
		a.Options = append(a.Options, "-"+rest)
	}
	return nil
}
