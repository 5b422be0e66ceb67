/**
 * The field `www-authenticate` of refusals (RFC 9110, 11.6.1; RFC 6750, 3): the credentials that a client has to send instead.
 */
import type { Auth } from "@millrace/core"

const quoted = (text: string): string => `"${text.replace(/[^\x20-\x7e]/g, "?").replace(/["\\]/g, "'")}"`

/**
 * A request without a credential is told the scheme only, by RFC 6750, 3.1. All credentials that are refused get one answer, which
 * does not say at which check they failed.
 */
export const of = ({ reason, scheme = "Bearer" }: Auth.Unauthorized): string =>
  reason === "missing" || scheme !== "Bearer" ? scheme : "Bearer error=\"invalid_token\""

/** The principal is known and lacks scopes, which are named. */
export const ofForbidden = ({ missing }: Auth.Forbidden): string =>
  `Bearer error="insufficient_scope", scope=${quoted(missing.join(" "))}`
