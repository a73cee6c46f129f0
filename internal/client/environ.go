package client

import (
	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// authFromEnviron reads OS_* as the stock clients do. gophercloud's own reading wants the project's id, which an openrc need not have.
func authFromEnviron(get func(string) string) (gophercloud.AuthOptions, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v := get(n); v != "" {
				return v
			}
		}
		return ""
	}
	auth := gophercloud.AuthOptions{
		IdentityEndpoint: get("OS_AUTH_URL"), AllowReauth: true,
		Username: get("OS_USERNAME"), UserID: get("OS_USER_ID"), Password: get("OS_PASSWORD"),
		ApplicationCredentialID: get("OS_APPLICATION_CREDENTIAL_ID"), ApplicationCredentialName: get("OS_APPLICATION_CREDENTIAL_NAME"),
		ApplicationCredentialSecret: get("OS_APPLICATION_CREDENTIAL_SECRET"),
	}
	if auth.UserID == "" && auth.Username != "" {
		auth.DomainID, auth.DomainName = get("OS_USER_DOMAIN_ID"), get("OS_USER_DOMAIN_NAME")
		if auth.DomainID == "" && auth.DomainName == "" {
			auth.DomainID = first("OS_DEFAULT_DOMAIN", "OS_DOMAIN_ID")
		}
		if auth.DomainID == "" && auth.DomainName == "" {
			auth.DomainID = "default"
		}
		if auth.DomainID != "" {
			auth.DomainName = ""
		}
	}
	if auth.ApplicationCredentialSecret != "" {
		return auth, nil // the credential carries its project
	}
	if auth.Password == "" || auth.Username == "" && auth.UserID == "" {
		return auth, cloud.Errorf(cloud.KindUnauthenticated, "OS_AUTH_URL is set, but OS_USERNAME and OS_PASSWORD (or an application credential) are not")
	}
	scope := gophercloud.AuthScope{ProjectID: first("OS_PROJECT_ID", "OS_TENANT_ID")}
	if scope.ProjectID == "" {
		scope.ProjectName = first("OS_PROJECT_NAME", "OS_TENANT_NAME")
		scope.DomainID, scope.DomainName = get("OS_PROJECT_DOMAIN_ID"), get("OS_PROJECT_DOMAIN_NAME")
		if scope.DomainID == "" && scope.DomainName == "" {
			scope.DomainID = "default"
		}
		if scope.DomainID != "" {
			scope.DomainName = ""
		}
	}
	if scope.ProjectID == "" && scope.ProjectName == "" {
		return auth, cloud.Errorf(cloud.KindUnauthenticated, "OS_PROJECT_NAME is not set")
	}
	auth.Scope = &scope
	return auth, nil
}
