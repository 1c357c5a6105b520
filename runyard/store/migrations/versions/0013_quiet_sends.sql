-- Wakes the sensors of these functions (names with commas between). A payload over the limit of NOTIFY
-- (8,000 bytes) becomes an empty one, which wakes them all. `runyard.notify = off` wakes nobody: a transaction with a NOTIFY in it
-- cannot be prepared, and commits after all others with one. What is due is then found when the sensors look by themselves.
CREATE OR REPLACE FUNCTION runyard.wake_v1(functions text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('runyard_due', CASE WHEN octet_length(functions) < 7900 THEN functions ELSE '' END)
    WHERE coalesce(current_setting('runyard.notify', true), '') <> 'off'
$$;
