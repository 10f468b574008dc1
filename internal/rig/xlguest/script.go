package xlguest

import (
	"context"
	"fmt"
	"time"
)

// Exec runs a shell script in the guest, and returns what it printed and its exit
// status. Scripts run one after the other; one that goes on in the background
// must not keep the console.
func (g *Guest) Exec(ctx context.Context, script string) (output string, status int, err error) {
	return g.con.exec(ctx, script)
}

// Until is a part of a script: it waits until a condition of the shell holds, and ends
// the script with status 1 when it does not for long, though not for [Patience].
func Until(condition string) string {
	const seconds = int(Patience*3/4) / int(time.Second)
	return fmt.Sprintf(`
read -r up _ </proc/uptime; end=$((${up%%.*} + %d))
until %s; do
	read -r up _ </proc/uptime; [ ${up%%.*} -lt $end ] || exit 1
	usleep 20000
done
`, seconds, condition)
}

// Await waits until a condition of the shell holds in the guest.
func (g *Guest) Await(condition string) {
	g.t.Helper()
	g.Run(Until(condition))
}

// Run is Exec for a script that must succeed within [Patience].
func (g *Guest) Run(script string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), Patience)
	defer cancel()
	out, status, err := g.Exec(ctx, script)
	if err != nil || status != 0 {
		g.t.Fatalf("guest %s: %s\nstatus %d, error %v, output:\n%s", g.name, script, status, err, out)
	}
	return out
}
