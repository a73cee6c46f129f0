package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// statusKinds are what statuses stand for.
var statusKinds = map[int]cloud.Kind{
	http.StatusBadRequest: cloud.KindInvalid, http.StatusUnauthorized: cloud.KindUnauthenticated, http.StatusForbidden: cloud.KindForbidden,
	http.StatusNotFound: cloud.KindNotFound, http.StatusConflict: cloud.KindConflict, http.StatusRequestEntityTooLarge: cloud.KindTooLarge,
	http.StatusServiceUnavailable: cloud.KindUnavailable, http.StatusBadGateway: cloud.KindUnavailable, http.StatusGatewayTimeout: cloud.KindUnavailable,
	http.StatusNotAcceptable: cloud.KindUnsupported, http.StatusNotImplemented: cloud.KindUnsupported,
}

// explain turns a refusal into an error with its kind and the server's own words.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var refused gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &refused) {
		kind, text := read(refused)
		return cloud.Errorf(kind, "%s (HTTP %d)", text, refused.Actual)
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		return cloud.Errorf(cloud.KindUnavailable, "the API does not answer: %w", failed)
	}
	return err
}

// wordsMax bounds how much of an answer that is no fault is shown.
const wordsMax = 300

// read finds kind and message in a fault of any dialect. The operator API names the kind; for the others the status has to do.
func read(refused gophercloud.ErrUnexpectedResponseCode) (cloud.Kind, string) {
	kind, text := statusKinds[refused.Actual], "" // the zero kind is internal
	var fault map[string]struct {
		Message string `json:"message"`
		Kind    string `json:"kind"`
	}
	if json.Unmarshal(refused.Body, &fault) == nil {
		for _, f := range fault {
			if f.Message != "" {
				text, kind = f.Message, named(f.Kind, kind)
			}
		}
	}
	if kind == cloud.KindInvalid && strings.HasPrefix(text, noValidHost) {
		kind = cloud.KindNoValidHost
	}
	if text != "" {
		return kind, text
	}
	text = strings.TrimSpace(string(refused.Body))
	switch {
	case text == "":
		text = "the request was refused"
	case len(text) > wordsMax:
		text = text[:wordsMax] + "..."
	}
	return kind, text
}

// noValidHost begins the compute API's answer when placement refuses every host: a 400 like any wrong input, as Nova has it.
const noValidHost = "No valid host was found."

// named returns the kind with this name, otherwise when there is none.
func named(name string, otherwise cloud.Kind) cloud.Kind {
	for _, k := range cloud.Kinds() {
		if k.String() == name {
			return k
		}
	}
	return otherwise
}
