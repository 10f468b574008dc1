// Package sys is the fence around the kernel's ABI: the only package that
// imports golang.org/x/sys/unix. Each function is one system call, or the few
// that make one idea, with sizes and flags fixed; policy lives in the callers.
package sys
