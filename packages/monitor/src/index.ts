/**
 * Monitoring for Millrace: errors in groups, trends and alerts.
 */
export * as AlertChannel from "./AlertChannel.ts"
export * as AlertRule from "./AlertRule.ts"
export * as Fingerprint from "./Fingerprint.ts"
export * as Fold from "./Fold.ts"
export * as Monitor from "./Monitor.ts"
export * as MonitorSql from "./MonitorSql.ts"
export * as Preset from "./Preset.ts"
export * as Severity from "./Severity.ts"
