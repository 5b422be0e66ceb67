/**
 * The header `www-authenticate` of refusals (RFC 9110, 11.6.1; RFC 6750, 3), which names the credentials that a client has to
 * send.
 */
import type { Auth } from "@millrace/core"

const quoted = (text: string): string => `"${text.replace(/[^\x20-\x7e]/g, "?").replace(/["\\]/g, "'")}"`

/**
 * Writes the challenge of a refusal. A request without a credential gets the scheme only (RFC 6750, 3.1). All refused
 * credentials get the same challenge, which does not reveal the failed check.
 */
export const of = ({ reason, scheme = "Bearer" }: Auth.Unauthorized): string =>
  reason === "missing" || scheme !== "Bearer" ? scheme : "Bearer error=\"invalid_token\""

/** Writes the challenge for a known principal that lacks scopes, with the scopes. */
export const ofForbidden = ({ missing }: Auth.Forbidden): string =>
  `Bearer error="insufficient_scope", scope=${quoted(missing.join(" "))}`
