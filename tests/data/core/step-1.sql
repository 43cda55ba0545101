BEGIN TRANSACTION;
CREATE TABLE application (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL, slug TEXT NOT NULL UNIQUE,
        provider INTEGER UNIQUE REFERENCES provider(pk) ON DELETE SET NULL, "group" TEXT NOT NULL,
        policy_engine_mode TEXT NOT NULL, meta_launch_url TEXT NOT NULL, meta_icon TEXT NOT NULL,
        meta_description TEXT NOT NULL, meta_publisher TEXT NOT NULL, open_in_new_tab INTEGER NOT NULL);
CREATE TABLE application_backchannel (
        own TEXT NOT NULL REFERENCES application(pk) ON DELETE CASCADE,
        other INTEGER NOT NULL UNIQUE REFERENCES provider(pk) ON DELETE CASCADE, UNIQUE (own, other));
CREATE TABLE blueprint (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, path TEXT NOT NULL, digest TEXT NOT NULL, context TEXT NOT NULL,
        last_applied REAL NOT NULL);
CREATE TABLE blueprint_owned (
        model TEXT NOT NULL, pk TEXT NOT NULL, source TEXT NOT NULL, PRIMARY KEY (model, pk)) WITHOUT ROWID;
CREATE TABLE brand (
        pk TEXT PRIMARY KEY, domain TEXT NOT NULL UNIQUE, "default" INTEGER NOT NULL, branding_title TEXT NOT NULL,
        branding_logo TEXT NOT NULL, branding_favicon TEXT NOT NULL, branding_custom_css TEXT NOT NULL,
        branding_default_flow_background TEXT NOT NULL,
        flow_authentication TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_invalidation TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_recovery TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_unenrollment TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_user_settings TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_device_code TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        default_application TEXT REFERENCES application(pk) ON DELETE SET NULL,
        web_certificate TEXT REFERENCES key_pair(pk) ON DELETE SET NULL, attributes TEXT NOT NULL);
CREATE TABLE event (
        pk TEXT PRIMARY KEY, action TEXT NOT NULL, app TEXT NOT NULL, context TEXT NOT NULL, client_ip TEXT,
        user TEXT NOT NULL, brand TEXT NOT NULL, created REAL NOT NULL, expires REAL);
CREATE TABLE flow (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL, slug TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
        designation TEXT NOT NULL, authentication TEXT NOT NULL, denied_action TEXT NOT NULL,
        policy_engine_mode TEXT NOT NULL, compatibility_mode INTEGER NOT NULL, layout TEXT NOT NULL,
        background TEXT NOT NULL);
CREATE TABLE group_closure (
        grp TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE,
        ancestor TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE, PRIMARY KEY (grp, ancestor)) WITHOUT ROWID;
INSERT INTO "group_closure" VALUES('11111111-1111-4111-8111-111111111111','11111111-1111-4111-8111-111111111111');
INSERT INTO "group_closure" VALUES('22222222-2222-4222-8222-222222222222','11111111-1111-4111-8111-111111111111');
INSERT INTO "group_closure" VALUES('22222222-2222-4222-8222-222222222222','22222222-2222-4222-8222-222222222222');
CREATE TABLE group_parent (
        own TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE, UNIQUE (own, other));
INSERT INTO "group_parent" VALUES('22222222-2222-4222-8222-222222222222','11111111-1111-4111-8111-111111111111');
CREATE TABLE group_role (
        own TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES role(pk) ON DELETE CASCADE, UNIQUE (own, other));
CREATE TABLE grp (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, is_superuser INTEGER NOT NULL, attributes TEXT NOT NULL);
INSERT INTO "grp" VALUES('11111111-1111-4111-8111-111111111111','parent',0,'{}');
INSERT INTO "grp" VALUES('22222222-2222-4222-8222-222222222222','child',0,'{}');
CREATE TABLE key_pair (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, certificate_data TEXT NOT NULL, key_data TEXT NOT NULL,
        managed TEXT UNIQUE);
CREATE TABLE migration (step INTEGER PRIMARY KEY, at REAL NOT NULL);
INSERT INTO "migration" VALUES(1,1000000.0);
CREATE TABLE outpost (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, type TEXT NOT NULL, config TEXT NOT NULL, managed TEXT UNIQUE);
CREATE TABLE outpost_provider (
        own TEXT NOT NULL REFERENCES outpost(pk) ON DELETE CASCADE,
        other INTEGER NOT NULL REFERENCES provider(pk) ON DELETE CASCADE, UNIQUE (own, other));
CREATE TABLE permission (
        pk INTEGER PRIMARY KEY, role TEXT NOT NULL REFERENCES role(pk) ON DELETE CASCADE,
        permission TEXT NOT NULL, model TEXT, object_pk TEXT);
CREATE TABLE policy (
        pk TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE, execution_logging INTEGER NOT NULL,
        options TEXT NOT NULL);
CREATE TABLE policy_binding (
        pk TEXT PRIMARY KEY, target TEXT NOT NULL, policy TEXT REFERENCES policy(pk) ON DELETE CASCADE,
        "group" TEXT REFERENCES grp(pk) ON DELETE CASCADE, user INTEGER REFERENCES user(pk) ON DELETE CASCADE,
        negate INTEGER NOT NULL, enabled INTEGER NOT NULL, "order" INTEGER NOT NULL, timeout INTEGER NOT NULL,
        failure_result INTEGER NOT NULL,
        CHECK ((policy IS NOT NULL) + ("group" IS NOT NULL) + (user IS NOT NULL) = 1));
CREATE TABLE property_mapping (
        pk TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE, managed TEXT UNIQUE,
        options TEXT NOT NULL);
CREATE TABLE provider (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE,
        authentication_flow TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        authorization_flow TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        invalidation_flow TEXT REFERENCES flow(pk) ON DELETE SET NULL, options TEXT NOT NULL);
CREATE TABLE provider_mapping (
        own INTEGER NOT NULL REFERENCES provider(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES property_mapping(pk) ON DELETE CASCADE, UNIQUE (own, other));
CREATE TABLE reputation (
        pk TEXT PRIMARY KEY, identifier TEXT NOT NULL, ip TEXT NOT NULL, score INTEGER NOT NULL, updated REAL NOT NULL,
        expires REAL, UNIQUE (identifier, ip));
CREATE TABLE role (pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, managed TEXT UNIQUE);
CREATE TABLE session (
        pk TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, user INTEGER REFERENCES user(pk) ON DELETE CASCADE,
        data TEXT NOT NULL, created REAL NOT NULL, last_used REAL NOT NULL, expires REAL, last_ip TEXT NOT NULL,
        user_agent TEXT NOT NULL);
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "setting" VALUES('install_id','0000000000000000000000000000000000000000000000000000000000000000');
CREATE TABLE stage (pk TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE, options TEXT NOT NULL);
CREATE TABLE stage_binding (
        pk TEXT PRIMARY KEY, target TEXT NOT NULL REFERENCES flow(pk) ON DELETE CASCADE,
        stage TEXT NOT NULL REFERENCES stage(pk) ON DELETE CASCADE, "order" INTEGER NOT NULL,
        evaluate_on_plan INTEGER NOT NULL, re_evaluate_policies INTEGER NOT NULL, policy_engine_mode TEXT NOT NULL,
        invalid_response_action TEXT NOT NULL, UNIQUE (target, stage, "order"));
CREATE TABLE static_device (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        name TEXT NOT NULL, confirmed INTEGER NOT NULL, tokens TEXT NOT NULL, throttling_failure_timestamp REAL,
        throttling_failure_count INTEGER NOT NULL, created REAL NOT NULL, last_used REAL);
CREATE TABLE token (
        pk TEXT PRIMARY KEY, identifier TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE, intent TEXT NOT NULL,
        user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE, description TEXT NOT NULL, expires REAL,
        expiring INTEGER NOT NULL, managed TEXT UNIQUE);
CREATE TABLE totp_device (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        name TEXT NOT NULL, confirmed INTEGER NOT NULL, key TEXT NOT NULL, step INTEGER NOT NULL, t0 INTEGER NOT NULL,
        digits INTEGER NOT NULL, tolerance INTEGER NOT NULL, drift INTEGER NOT NULL, last_t INTEGER NOT NULL,
        throttling_failure_timestamp REAL, throttling_failure_count INTEGER NOT NULL, created REAL NOT NULL,
        last_used REAL);
CREATE TABLE user (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE, username TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL, email TEXT NOT NULL, password_hash TEXT NOT NULL, is_active INTEGER NOT NULL,
        type TEXT NOT NULL, path TEXT NOT NULL, attributes TEXT NOT NULL, date_joined REAL NOT NULL, last_login REAL,
        last_updated REAL NOT NULL, password_change_date REAL NOT NULL);
INSERT INTO "user" VALUES(1,'33333333-3333-4333-8333-333333333333','old','','','',1,'internal','users','{"upn":"old@example.org"}',1000000.0,NULL,1000000.0,1000000.0);
CREATE TABLE user_group (
        own INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE, UNIQUE (own, other));
INSERT INTO "user_group" VALUES(1,'22222222-2222-4222-8222-222222222222');
CREATE TABLE user_role (
        own INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES role(pk) ON DELETE CASCADE, UNIQUE (own, other));
CREATE UNIQUE INDEX permission_once ON permission (role, permission, ifnull(model, ''), ifnull(object_pk, ''));
CREATE INDEX group_parent_other ON group_parent (other);
CREATE INDEX group_closure_ancestor ON group_closure (ancestor);
CREATE INDEX user_username_fold ON user (casefold(username));
CREATE INDEX user_email ON user (email);
CREATE INDEX user_email_fold ON user (casefold(email));
CREATE INDEX user_name ON user (name);
CREATE INDEX user_path ON user (path);
CREATE INDEX user_last_updated ON user (last_updated);
CREATE INDEX user_upn ON user (json_extract(attributes, '$."upn"'));
CREATE INDEX user_upn_fold ON user (casefold(json_extract(attributes, '$."upn"')));
CREATE INDEX user_group_other ON user_group (other, own);
CREATE INDEX token_user ON token (user, intent);
CREATE INDEX token_expires ON token (expires) WHERE expiring;
CREATE INDEX session_user ON session (user);
CREATE INDEX session_expires ON session (expires);
CREATE INDEX stage_binding_stage ON stage_binding (stage);
CREATE INDEX policy_binding_target ON policy_binding (target, "order");
CREATE INDEX policy_binding_policy ON policy_binding (policy);
CREATE INDEX policy_binding_group ON policy_binding ("group");
CREATE INDEX policy_binding_user ON policy_binding (user);
CREATE INDEX outpost_provider_other ON outpost_provider (other);
CREATE INDEX totp_device_user ON totp_device (user);
CREATE INDEX static_device_user ON static_device (user);
CREATE INDEX event_created ON event (created);
CREATE INDEX event_expires ON event (expires);
CREATE INDEX reputation_ip ON reputation (ip);
CREATE INDEX reputation_expires ON reputation (expires);
COMMIT;
