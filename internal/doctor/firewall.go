package doctor

import (
	"context"
	"net/http"

	"github.com/xenchan/xenchan/agent/firewall"
	"github.com/xenchan/xenchan/internal/daemon"
)

// checkFirewall looks for files of the agent firewall that are wrong, or not in force.
func checkFirewall(ctx context.Context, runDir string) []Finding {
	r := &report{subject: "agent firewall"}
	var found firewall.Report
	if err := daemon.Call(ctx, runDir, http.MethodGet, firewall.ReportPath, &found); err != nil {
		r.add("firewall-unknown", Warning, "restart the daemon", "%v", err)
		return r.findings
	}
	for _, m := range found.Mistakes {
		r.add("firewall-file", Failed, "correct the file, then: xenchan firewall --apply", "%s", m)
	}
	for _, s := range found.Strangers {
		r.add("firewall-stranger", Warning, "", "%s", s)
	}
	if found.Pending && len(found.Mistakes) == 0 {
		r.add("firewall-pending", Warning, "xenchan firewall --apply", "the files have changed, and the daemon still goes by what they said before")
	}
	return r.findings
}
