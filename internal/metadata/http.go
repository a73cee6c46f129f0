package metadata

import (
	"net/http"
	"path"
	"slices"
	"strings"
)

// Serve answers one request of the guest s to the metadata service. Only GET and HEAD are known; a path that does not exist is 404,
// user data that was not given included.
func Serve(w http.ResponseWriter, r *http.Request, s *Server) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "405 Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	body, kind, ok := find(s, path.Clean("/"+r.URL.Path))
	if !ok {
		http.Error(w, "404 Not Found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(body) // a guest that went away
}

const (
	plain  = "text/plain; charset=UTF-8"
	asJSON = "application/json"
	binary = "application/octet-stream"
)

func find(s *Server, name string) (body []byte, kind string, ok bool) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	switch {
	case first == "":
		return []byte(strings.Join(ec2Versions(), "\n")), plain, true
	case first == "openstack":
		return findOpenStack(s, rest)
	case slices.Contains(ec2Versions(), first):
		return findEC2(s, rest)
	}
	return nil, "", false
}

func findOpenStack(s *Server, name string) (body []byte, kind string, ok bool) {
	version, file, _ := strings.Cut(name, "/")
	if version == "" {
		return []byte(strings.Join(Versions(), "\n")), plain, true
	}
	if !slices.Contains(Versions(), version) {
		return nil, "", false
	}
	docs := documents(s)
	if file == "" {
		var names []string
		for n := range docs {
			names = append(names, n)
		}
		slices.Sort(names)
		return []byte(strings.Join(names, "\n")), plain, true
	}
	body, ok = docs[file]
	kind = asJSON
	if file == fileUser {
		kind = binary
	}
	return body, kind, ok
}

func findEC2(s *Server, name string) (body []byte, kind string, ok bool) {
	first, rest, _ := strings.Cut(name, "/")
	switch first {
	case "":
		if s.UserData != nil {
			return []byte("meta-data/\nuser-data"), plain, true
		}
		return []byte("meta-data/"), plain, true
	case "meta-data":
		text, ok := lookup(ec2Tree(s), rest)
		return []byte(text), plain, ok
	case "user-data":
		return s.UserData, binary, s.UserData != nil && rest == ""
	}
	return nil, "", false
}
