// Package client is what the godwit command speaks to a cloud with: the public APIs, with credentials from the environment (OS_*) or clouds.yaml
// like any OpenStack client. The compute API answers what OpenStack has words for, the operator API the rest.
//
// Errors carry the cloud.Kind that the answer's status stands for and the server's own words, so that the command's exit code and text say what
// happened. Nothing polls: Watch follows the operator API's stream.
package client
