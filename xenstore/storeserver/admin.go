package storeserver

import (
	"strconv"
	"syscall"

	"github.com/xenchan/xenchan/xenstore/wire"
)

// doControl knows the commands that only look.
func (s *Server) doControl(r request) ([]byte, error) {
	parts, whole := wire.SplitNUL(r.Payload)
	if !whole || len(parts) == 0 {
		return nil, syscall.EINVAL
	}
	switch {
	case parts[0] == "help" && len(parts) == 1:
		return []byte("check\nhelp\nprint\t<string>\n\x00"), nil
	case parts[0] == "check" && len(parts) == 1:
		return ok, nil
	case parts[0] == "print" && len(parts) == 2:
		s.log.Info("xenstore control print", "text", parts[1])
		return ok, nil
	}
	return nil, syscall.EINVAL
}

func (s *Server) doGetDomainPath(r request) ([]byte, error) {
	parts, err := r.strings(1)
	if err != nil {
		return nil, err
	}
	dom, err := domID(parts[0])
	if err != nil {
		return nil, err
	}
	return wire.JoinNUL("/local/domain/" + dom.String()), nil
}

func (s *Server) doIsIntroduced(r request) ([]byte, error) {
	parts, err := r.strings(1)
	if err != nil {
		return nil, err
	}
	dom, err := domID(parts[0])
	if err != nil {
		return nil, err
	}
	if d := s.domains[dom]; d != nil && d.introduced {
		return wire.JoinNUL("T"), nil
	}
	return wire.JoinNUL("F"), nil
}

// doIntroduce checks the frame and the event channel of the domain's ring as
// numbers only: how a domain reaches an embedded store is its hypervisor's affair.
func (s *Server) doIntroduce(r request) ([]byte, error) {
	parts, err := r.strings(3)
	if err != nil {
		return nil, err
	}
	dom, err := domID(parts[0])
	if err != nil {
		return nil, err
	}
	if _, err := strconv.ParseUint(parts[1], 10, 64); err != nil {
		return nil, syscall.EINVAL
	}
	if port, err := strconv.ParseUint(parts[2], 10, 32); err != nil || port == 0 {
		return nil, syscall.EINVAL
	}
	s.introduce(dom)
	return ok, nil
}

func (s *Server) doRelease(r request) ([]byte, error) {
	dom, err := s.introduced(r, 1)
	if err != nil {
		return nil, err
	}
	if dom[0].id == 0 {
		return nil, syscall.EINVAL
	}
	s.release(dom[0].id)
	return ok, nil
}

// doResume would forget that the domain had shut down, which is not kept here.
func (s *Server) doResume(r request) ([]byte, error) {
	if _, err := s.introduced(r, 1); err != nil {
		return nil, err
	}
	return ok, nil
}

// doSetTarget gives a stub domain the rights of the domain that it serves.
func (s *Server) doSetTarget(r request) ([]byte, error) {
	doms, err := s.introduced(r, 2)
	if err != nil {
		return nil, err
	}
	doms[0].target = doms[1]
	return ok, nil
}

// introduced decodes a payload of n domids of introduced domains.
func (s *Server) introduced(r request, n int) ([]*domain, error) {
	parts, err := r.strings(n)
	if err != nil {
		return nil, err
	}
	doms := make([]*domain, n)
	for i, part := range parts {
		dom, err := domID(part)
		if err != nil {
			return nil, err
		}
		if doms[i] = s.domains[dom]; doms[i] == nil || !doms[i].introduced {
			return nil, syscall.ENOENT
		}
	}
	return doms, nil
}
